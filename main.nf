// The entry: checks parameters and samplesheet, runs STMCDI on the samples, gathers what belongs to all of them.
include { STMCDI_CHECK_SAMPLESHEET } from './modules/local/stmcdi/check_samplesheet/main'
include { STMCDI                   } from './workflows/stmcdi'
include { failedSamples            } from './workflows/failures'
include { metricsRow               } from './workflows/metrics'
include { chosenParameters ; helpText ; typedParameters ; validateParameters } from './workflows/parameters'
include { readSamplesheet          } from './workflows/samplesheet'
include { missingImage             } from './workflows/images'

// Nextflow writes its reports into pipeline_info by itself, and the trace that -with-trace names; a run that does nothing
// shall leave nothing.
def removeReports(outdir, suffix) {
    def trace = nextflow.Global.session?.config?.trace
    if (trace?.enabled && trace.file) {
        file(trace.file).delete()
    }
    def info = file(outdir.toString()).resolve('pipeline_info') // a value that is none makes a folder, too
    if (info.isDirectory()) {
        info.list().findAll { name -> name.contains(suffix) }.each { name -> info.resolve(name).delete() }
    }
    [info, info.parent].each { folder ->
        if (folder.isDirectory() && folder.list().length == 0) {
            folder.delete()
        }
    }
}

// Whether --preset is the name of a preset. What has a dot or a slash is a file; conf/modules.config tells them apart so, too.
def namesPreset(preset) {
    preset ==~ /[\w-]+/
}

// Whether there is no preset of that name, and no such file.
def isNoPreset(preset) {
    def path = file(namesPreset(preset) ? "${projectDir}/stmcdi_cli/presets/${preset}.yaml" : preset)
    path instanceof Collection || !path.exists() || path.isDirectory()
}

// Whether the last part of a path has what a shell would read otherwise; Nextflow writes it into the tasks' scripts.
def isUnsafe(path) {
    !(path.toString().tokenize('/').takeRight(1).join() ==~ /(?U)[\w.+=,@%~-]*/)
}

// What is wrong with the paths among the parameters, in one line.
def missingPath(parameters) {
    def unsafe = ['input', 'model', 'reference', 'reference_genes'].find { name ->
        parameters[name] && !parameters[name].toString().contains('://') && isUnsafe(parameters[name])
    }
    if (unsafe) {
        return "--${unsafe} ${parameters[unsafe]}: the name has a space or a letter that shells read; rename it or link to it"
    }
    if (!file(parameters.input).exists()) {
        return "--input ${parameters.input}: no such file"
    }
    def absent = ['reference', 'reference_genes'].find { name -> parameters[name] && !file(parameters[name]).exists() }
    if (absent) {
        return "--${absent} ${parameters[absent]}: no such file"
    }
    if (isNoPreset(parameters.preset)) {
        def names = file("${projectDir}/stmcdi_cli/presets").list().collect { name -> name - '.yaml' }.sort()
        return namesPreset(parameters.preset)
            ? "--preset must be one of ${names.join(', ')} or a file with a dot or slash in its name, not '${parameters.preset}'"
            : "--preset ${parameters.preset}: no such file"
    }
    parameters.model && !file(parameters.model).isDirectory()
        ? "--model ${parameters.model}: no such folder; name one that STMCDI_TRAIN wrote, such as results/SAMPLE/SAMPLE_model"
        : null
}

// The first faults of a samplesheet, one per line.
def firstFaults(faults) {
    def more = faults.size() > 10 ? ["and ${faults.size() - 10} more"] : []
    (faults.take(10) + more).join('\n       ')
}

workflow {
    def schema = new groovy.json.JsonSlurper().parseText(file("${projectDir}/nextflow_schema.json").text)
    def parameters = typedParameters(params, schema)
    def outdir = parameters.outdir
    def suffix = parameters.trace_report_suffix
    def asked = parameters.help == true ? helpText(schema) : parameters.version == true ? "stmcdi ${workflow.manifest.version}" : null
    def fault = asked ? null : validateParameters(parameters, chosenParameters(params, workflow.commandLine), schema)
    fault = asked ? null : fault ?: missingPath(parameters)
    def samplesheet = asked || fault ? null : file(parameters.input)
    def sheet = samplesheet ? readSamplesheet(samplesheet, parameters.input) : [faults: []]
    if (sheet.faults) {
        fault = firstFaults(sheet.faults)
    }
    if (!asked && !fault && !workflow.preview) {
        fault = missingImage(nextflow.Global.session.config, workflow.containerEngine, parameters)
    }
    if (asked || fault) {
        // Plain streams: Nextflow's own error adds lines of no use here.
        if (fault) {
            System.err.println("ERROR: ${fault}")
        }
        else {
            println(asked)
        }
        removeReports(outdir, suffix)
        System.exit(fault ? 2 : 0)
    }
    if (workflow.preview) {
        // Nextflow writes the reports last.
        Runtime.runtime.addShutdownHook(new Thread({ -> removeReports(outdir, suffix) }))
    }

    // What the samplesheet says of a sample comes before what is said of all.
    def forAll = [reference: parameters.reference, reference_genes: parameters.reference_genes]
        .findAll { _name, path -> path }
        .collectEntries { name, path -> [name, file(path).toUriString()] }
    def samples = sheet.samples.collect { meta, h5ad -> [forAll + meta, h5ad] }
    ch_samples = channel
        .fromList(samples)
        .map { meta, h5ad -> [meta, h5ad instanceof CharSequence ? file(h5ad, checkIfExists: true) : h5ad] }
    ch_versions = channel.empty()
    if (!parameters.keep_going) {
        // All files are looked at before the first is worked on. Those far away are not fetched for that.
        def named = sheet.samples.collectMany { meta, h5ad -> [h5ad, sheet.references[meta.id]] }
        def here = named.findAll { path -> path && !(path instanceof CharSequence) }.unique()
        STMCDI_CHECK_SAMPLESHEET(samplesheet, samplesheet.parent.toUriString(), here)
        ch_samples = ch_samples.combine(STMCDI_CHECK_SAMPLESHEET.out.csv).map { meta, h5ad, _csv -> [meta, h5ad] }
        ch_versions = STMCDI_CHECK_SAMPLESHEET.out.versions
    }

    def model = parameters.model ? file(parameters.model) : null
    def preset = namesPreset(parameters.preset) ? null : file(parameters.preset)
    STMCDI(ch_samples, parameters.evaluate, model, parameters.impute_shards, preset)

    // A GPU that was asked for and not used is easily missed.
    if (parameters.device == 'cuda' && !parameters.model) {
        STMCDI.out.model.subscribe { meta, trained ->
            if (trained.resolve('config.yaml').text.contains('cpu_fallback')) {
                log.warn("${meta.id}: trained on the CPU, though a GPU was asked for; --require_gpu ends such a run")
            }
        }
    }

    STMCDI.out.metrics
        .map { meta, json -> metricsRow(meta.id, json) }
        .collectFile(name: 'metrics.tsv', storeDir: outdir, keepHeader: true, skip: 1, sort: true)

    ch_versions
        .mix(STMCDI.out.versions)
        .map { yml -> yml.text }
        .unique()
        .collectFile(name: 'versions.yml', storeDir: "${outdir}/pipeline_info", sort: true)

    def run = workflow
    def done = new java.util.concurrent.ConcurrentLinkedQueue()
    STMCDI.out.report.subscribe { meta, _html -> done.add(meta.id) }
    workflow.onComplete {
        def names = sheet.samples.collect { meta, _h5ad -> meta.group ?: meta.id }.unique()
        def trace = file("${outdir}/pipeline_info/execution_trace_${suffix}.txt")
        def failed = parameters.keep_going ? failedSamples(names, done, trace, run.workDir) : []
        if (run.preview) {
            return
        }
        if (failed) {
            log.error("${failed.size()} of ${names.size()} failed; the others are in ${outdir}\n  ${failed.join('\n  ')}")
        }
        else if (run.success) {
            log.info("Results: ${outdir}/SAMPLE/, reports: ${outdir}/SAMPLE/SAMPLE_report.html")
        }
    }
}
