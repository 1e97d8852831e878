include { memoryFor } from '../memory'

// Scores an imputation on the hidden values.
process STMCDI_EVALUATE {
    tag "${meta.id}"
    label 'process_low'
    memory { memoryFor(1.GB, 1, [imputed, truth], task.attempt) }

    input:
    tuple val(meta), path(imputed), path(truth)

    output:
    tuple val(meta), path('*_metrics.json'), emit: metrics
    tuple val(meta), path('*_metrics.tsv'), emit: genes
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def prefix = task.ext.prefix ?: meta.id
    """
    stmcdi evaluate ${memory} ${args} "${imputed}" "${truth}" "${prefix}_metrics.json"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    """
    echo '{}' > "${prefix}_metrics.json"
    touch "${prefix}_metrics.tsv"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
