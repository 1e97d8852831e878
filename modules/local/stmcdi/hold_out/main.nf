include { memoryFor } from '../memory'

// Hides some of the known values, so that an imputation can be scored on them. The truth goes into a file of its own.
process STMCDI_HOLD_OUT {
    tag "${meta.id}"
    label 'process_low'
    memory { memoryFor(1.GB, 8, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad)

    output:
    tuple val(meta), path('*_held_out.h5ad'), emit: h5ad
    tuple val(meta), path('*_truth.h5ad'), emit: truth
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def prefix = task.ext.prefix ?: meta.id
    if (h5ad.name in ["${prefix}_held_out.h5ad".toString(), "${prefix}_truth.h5ad".toString()]) {
        error("STMCDI_HOLD_OUT: input and output are both named ${h5ad.name}; set another ext.prefix")
    }
    """
    stmcdi hold-out ${memory} ${args} "${h5ad}" "${prefix}_held_out.h5ad" "${prefix}_truth.h5ad"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    if (h5ad.name in ["${prefix}_held_out.h5ad".toString(), "${prefix}_truth.h5ad".toString()]) {
        error("STMCDI_HOLD_OUT: input and output are both named ${h5ad.name}; set another ext.prefix")
    }
    """
    touch "${prefix}_held_out.h5ad" "${prefix}_truth.h5ad"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
