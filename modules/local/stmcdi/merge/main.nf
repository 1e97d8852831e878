include { memoryFor } from '../memory'

// Puts the shards of an imputation together: the same content as from one task.
process STMCDI_MERGE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor(1.GB, 2, shards, task.attempt) }

    input:
    tuple val(meta), path(shards, stageAs: 'shards/*')

    output:
    tuple val(meta), path('*_imputed.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def output = "${task.ext.prefix ?: meta.id}_imputed.h5ad"
    """
    stmcdi merge ${memory} ${args} shards/* "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_imputed.h5ad"
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
