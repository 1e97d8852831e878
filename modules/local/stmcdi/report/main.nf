include { memoryFor } from '../memory'

// Says in one page what was imputed and which genes to trust; `truth` may be an empty list.
process STMCDI_REPORT {
    tag "${meta.id}"
    label 'process_low'
    memory { memoryFor(1.GB, 1, [imputed, truth], task.attempt) }

    input:
    tuple val(meta), path(imputed), path(model), path(truth)

    output:
    tuple val(meta), path('*_report.html'), emit: html
    tuple val(meta), path('*_report.tsv'), emit: genes
    path '*_mqc.json', emit: multiqc
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def prefix = task.ext.prefix ?: meta.id
    def hidden = truth ? "--truth \"${truth}\"" : ''
    def ours = ['id', 'section_key', 'group', 'reference', 'reference_genes']
    def known = meta.findAll { key, value -> value && !(key in ours) }.collectEntries { key, value -> [key, value.toString()] }
    // JSON on one line, in a heredoc that expands nothing: a cell of the samplesheet may hold anything.
    """
    cat > sample_info.json <<'END_SAMPLE_INFO'
    ${groovy.json.JsonOutput.toJson(known)}
    END_SAMPLE_INFO
    stmcdi report ${memory} ${args} --sample-info sample_info.json --model-dir "${model}" ${hidden} "${imputed}" "${prefix}_report.html"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    """
    touch "${prefix}_report.html" "${prefix}_report.tsv" "${prefix}_report_scores_mqc.json"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
