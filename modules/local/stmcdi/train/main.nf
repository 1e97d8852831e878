include { memoryFor } from '../memory'

// Trains the diffusion model on the visible entries of one sample, on every GPU that the task was given. Where it sees
// none it says so and computes on the CPU; with --device cuda in ext.args it fails instead. A task that is tried again
// goes on where the one before was stopped, if both are given the same folder `checkpoints`.
process STMCDI_TRAIN {
    tag "${meta.id}"
    label 'process_high'
    label 'process_gpu'
    memory { memoryFor(4.GB, 4, h5ad, task.attempt) }

    input:
    tuple val(meta), path(h5ad)
    path checkpoints, stageAs: 'checkpoints/*' // folder that outlives the task and holds a folder checkpoints/; [] for none
    path preset, stageAs: 'preset/*' // YAML file with settings of the model and its training; [] for the preset that ext.args names

    output:
    tuple val(meta), path('*_model', type: 'dir'), emit: model
    path 'versions.yml', emit: versions

    script:
    def args = task.ext.args ?: ''
    def memory = task.memory ? "--memory-limit ${task.memory.toMega().intdiv(2)}M" : ''
    def devices = task.accelerator && task.accelerator.request > 1 ? "--devices ${task.accelerator.request}" : ''
    def output = "${task.ext.prefix ?: meta.id}_model"
    def checkpoint = checkpoints ? "--checkpoint '${checkpoints}/checkpoints/${task.process.replace(':', '_')}_${output}'" : ''
    def settings = preset ? "--preset \"${preset}\"" : ''
    if (h5ad.name == output) {
        error("STMCDI_TRAIN: input and output are both named ${output}; set another ext.prefix")
    }
    """
    export OMP_NUM_THREADS=${task.cpus}
    stmcdi train ${memory} ${args} ${settings} ${devices} ${checkpoint} "${h5ad}" "${output}"

    cat > versions.yml <<-END_VERSIONS
    "${task.process}":
        stmcdi: \$(stmcdi --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def output = "${task.ext.prefix ?: meta.id}_model"
    if (h5ad.name == output) {
        error("STMCDI_TRAIN: input and output are both named ${output}; set another ext.prefix")
    }
    """
    mkdir "${output}"
    touch "${output}/model.safetensors" "${output}/config.yaml" "${output}/history.tsv"
    printf '"%s":\\n    stmcdi: stub\\n' "${task.process}" > versions.yml
    """
}
