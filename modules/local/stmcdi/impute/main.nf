// Draws the missing values from a trained model. With an accelerator it runs there or fails, as TRAIN does.
process IMPUTE {
    tag "${meta.id}"
    label 'process_high'
    label 'process_gpu'

    input:
    tuple val(meta), path(h5ad), path(model)

    output:
    tuple val(meta), path('*_imputed.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def device = task.accelerator ? '--device cuda' : ''
    def output = "${task.ext.prefix ?: meta.id}_imputed.h5ad"
    if (h5ad.name == output) {
        error("IMPUTE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    export OMP_NUM_THREADS=${task.cpus}
    stmcdi impute ${args} ${device} "${h5ad}" "${model}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_imputed.h5ad"
    if (h5ad.name == output) {
        error("IMPUTE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
