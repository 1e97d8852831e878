include { memoryFor } from '../memory'

// Draws the missing values from a trained model. Chooses its device as STMCDI_TRAIN does. Where meta.shard is set, such as to
// '2/5', it fills that part of the spots alone, for STMCDI_MERGE. A task that is tried again takes the batches of spots that the one
// before had done, if both are given the same folder `checkpoints`.
process STMCDI_IMPUTE {
    tag "${meta.shard ? "${meta.id} ${meta.shard}" : meta.id}"
    label 'process_high'
    label 'process_gpu'
    memory { memoryFor(3.GB, 12, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad), path(model)
    path checkpoints, stageAs: 'checkpoints/*' // folder that outlives the task and holds a folder parts/; [] for none

    output:
    tuple val(meta), path('*_imputed.h5ad'), emit: h5ad
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def shard = meta.shard ? "--shard ${meta.shard}" : ''
    def part = meta.shard ? "_${meta.shard.replace('/', '_of_')}" : ''
    def output = "${task.ext.prefix ?: meta.id}${part}_imputed.h5ad"
    def parts = checkpoints ? "--parts '${checkpoints}/parts/${task.process.replace(':', '_')}_${output}'" : ''
    if (h5ad.name == output) {
        error("STMCDI_IMPUTE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    export OMP_NUM_THREADS=${task.cpus}
    stmcdi impute ${memory} ${args} ${shard} ${parts} "${h5ad}" "${model}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def part = meta.shard ? "_${meta.shard.replace('/', '_of_')}" : ''
    def output = "${task.ext.prefix ?: meta.id}${part}_imputed.h5ad"
    if (h5ad.name == output) {
        error("STMCDI_IMPUTE: input and output are both named ${output}; set another ext.prefix")
    }
    """
    touch "${output}"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
