// The entry: checks parameters and samplesheet, runs STMCDI on the samples, gathers what belongs to all of them.
include { STMCDI_CHECK_SAMPLESHEET } from './modules/local/stmcdi/check_samplesheet/main'
include { STMCDI                   } from './workflows/stmcdi'
include { helpText ; firstFault    } from './workflows/parameters'
include { metricsRow               } from './workflows/metrics'
include { missingImage             } from './workflows/images'

// Nextflow opens the trace before this script runs; a run that does nothing shall leave nothing.
def removeTrace(outdir, suffix) {
    def info = file(outdir).resolve('pipeline_info')
    info.resolve("execution_trace_${suffix}.txt").delete()
    [info, info.parent].each { folder ->
        if (folder.isDirectory() && folder.list().length == 0) {
            folder.delete()
        }
    }
}

workflow {
    def schema = new groovy.json.JsonSlurper().parseText(file("${projectDir}/nextflow_schema.json").text)
    def fault = params.help ? null : firstFault(params, schema)
    if (!params.help && !fault && !file(params.input).exists()) {
        fault = "--input ${params.input}: no such file"
    }
    if (!params.help && !fault && params.model && !file(params.model).isDirectory()) {
        fault = "--model ${params.model}: no such folder; name one that STMCDI_TRAIN wrote, such as results/SAMPLE/SAMPLE_model"
    }
    if (!params.help && !fault && !workflow.preview) {
        fault = missingImage(nextflow.Global.session.config, workflow.containerEngine, params)
    }
    if (params.help || fault) {
        // Plain streams: Nextflow's own error adds lines of no use here.
        if (fault) {
            System.err.println("ERROR: ${fault}")
        }
        else {
            println(helpText(schema))
        }
        removeTrace(params.outdir, params.trace_report_suffix)
        System.exit(fault ? 2 : 0)
    }

    def samplesheet = file(params.input)
    def folder = samplesheet.parent
    def named = samplesheet.readLines()
        .collectMany { line -> line.tokenize(',').collect { cell -> cell.trim() } }
        .findAll { cell -> cell && !cell.contains('://') }
        .collect { cell -> folder.resolve(cell) }
        .findAll { candidate -> candidate.isFile() }
        .unique()
    STMCDI_CHECK_SAMPLESHEET(samplesheet, folder.toUriString(), named)
    samples = STMCDI_CHECK_SAMPLESHEET.out.csv
        .splitCsv(header: true)
        .map { row ->
            def h5ad = row.h5ad.contains('://') ? file(row.h5ad, checkIfExists: true) : folder.resolve(row.h5ad)
            def meta = [id: row.sample, section_key: row.section_key ?: null]
            [row.group ? meta + [group: row.group] : meta, h5ad]
        }

    def model = params.model ? file(params.model) : null
    STMCDI(samples, params.evaluate, model, params.impute_shards)

    // A GPU that was asked for and not used is easily missed.
    if (params.device == 'cuda' && !params.model) {
        STMCDI.out.model.subscribe { meta, trained ->
            if (trained.resolve('config.yaml').text.contains('cpu_fallback')) {
                log.warn("${meta.id}: trained on the CPU, though a GPU was asked for; --require_gpu ends such a run")
            }
        }
    }

    STMCDI.out.metrics
        .map { meta, json -> metricsRow(meta.id, json) }
        .collectFile(name: 'metrics.tsv', storeDir: params.outdir, keepHeader: true, skip: 1, sort: true)

    STMCDI_CHECK_SAMPLESHEET.out.versions
        .mix(STMCDI.out.versions)
        .map { yml -> yml.text }
        .unique()
        .collectFile(name: 'versions.yml', storeDir: "${params.outdir}/pipeline_info", sort: true)
}
