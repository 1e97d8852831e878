// Checks a samplesheet before any sample is touched, and completes it: every column there, every path absolute. With
// --content in ext.args it opens every file too.
process STMCDI_CHECK_SAMPLESHEET {
    tag "${samplesheet.name}"
    label 'process_single'

    input:
    path samplesheet
    val base                        // the folder that relative paths in the samplesheet start from
    path files, stageAs: 'files/?/*' // what the samplesheet names, so that container engines let the check see it

    output:
    path '*.checked.csv', emit: csv
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def output = "${task.ext.prefix ?: samplesheet.baseName}.checked.csv"
    if (samplesheet.name == output) {
        error("STMCDI_CHECK_SAMPLESHEET: input and output are both named ${output}; set another ext.prefix")
    }
    """
    HOME='${workflow.homeDir}' stmcdi check-samplesheet ${args} --base "${base}" "${samplesheet}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: samplesheet.baseName}.checked.csv"
    if (samplesheet.name == output) {
        error("STMCDI_CHECK_SAMPLESHEET: input and output are both named ${output}; set another ext.prefix")
    }
    """
    cp "${samplesheet}" "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
