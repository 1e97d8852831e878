include { memoryFor } from '../memory'

// Builds the graph of neighbouring spots; within sections, where meta.section_key names the obs column that tells them
// apart.
process STMCDI_BUILD_GRAPH {
    tag "${meta.id}"
    label 'process_low'
    memory { memoryFor(1.GB, 6, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad)

    output:
    tuple val(meta), path('*_graph.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def output = "${task.ext.prefix ?: meta.id}_graph.h5ad"
    def section = meta.section_key ? "--section-key '${meta.section_key}'" : ''
    if (h5ad.name == output) {
        error("STMCDI_BUILD_GRAPH: input and output are both named ${output}; set another ext.prefix")
    }
    """
    stmcdi build-graph ${memory} ${args} ${section} "${h5ad}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_graph.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_BUILD_GRAPH: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
