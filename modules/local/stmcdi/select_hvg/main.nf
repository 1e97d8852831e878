include { memoryFor } from '../memory'

// Keeps the genes worth imputing, or those of a list.
process STMCDI_SELECT_HVG {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor(1.GB, 4, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad)
    path genes, stageAs: 'genes/*' // file with one name per line, or the folder of a model; [] to choose by rank

    output:
    tuple val(meta), path('*_hvg.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def list = genes ? "--genes '${genes}'" : ''
    def output = "${task.ext.prefix ?: meta.id}_hvg.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_SELECT_HVG: input and output are both named ${output}; set another ext.prefix")
    }
    """
    stmcdi select-hvg ${memory} ${args} ${list} "${h5ad}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_hvg.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_SELECT_HVG: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
