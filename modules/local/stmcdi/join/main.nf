include { memoryFor } from '../memory'

// Puts the samples of a group into one file, as sections of one tissue. meta.samples holds their names, in their order.
process STMCDI_JOIN {
    tag "${meta.id}"
    label 'process_medium'
    memory { memoryFor(2.GB, 16, h5ads, task.attempt) }

    input:
    tuple val(meta), path(h5ads, stageAs: 'samples/?/*')

    output:
    tuple val(meta), path('*_joined.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def output = "${task.ext.prefix ?: meta.id}_joined.h5ad"
    def names = meta.samples.collect { name -> "--name '${name}'" }.join(' ')
    def section = meta.section_key ? "--section-key '${meta.section_key}'" : ''
    def files = (h5ads instanceof List ? h5ads : [h5ads]).collect { file -> "'${file}'" }.join(' ')
    """
    stmcdi join ${memory} ${args} ${names} ${section} ${files} "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_joined.h5ad"
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
