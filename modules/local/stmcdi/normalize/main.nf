include { memoryFor } from '../memory'

// Scales every spot to the median total count and takes log(1 + x).
process STMCDI_NORMALIZE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor(2.GB, 16, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad)

    output:
    tuple val(meta), path('*_normalized.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def output = "${task.ext.prefix ?: meta.id}_normalized.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_NORMALIZE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    stmcdi normalize ${memory} ${args} "${h5ad}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_normalized.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_NORMALIZE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
