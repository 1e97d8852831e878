include { memoryFor } from '../memory'

// Adds genes that a panel never measured, and a reference of the same tissue to impute them from.
process STMCDI_ADD_REFERENCE {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor(2.GB, 16, [h5ad, reference], task.attempt) }

    input:
    tuple val(meta), path(h5ad), path(reference, stageAs: 'reference/*'), path(genes, stageAs: 'genes/*') // genes: file with one name per line, or the folder of a model; [] to choose by rank

    output:
    tuple val(meta), path('*_with_reference.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def list = genes ? "--genes '${genes}'" : ''
    def output = "${task.ext.prefix ?: meta.id}_with_reference.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_ADD_REFERENCE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    stmcdi add-reference ${memory} ${args} ${list} "${h5ad}" "${reference}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_with_reference.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_ADD_REFERENCE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
