// The workflow that other pipelines include. It reads no parameters: what a step does is set by its ext.args.
include { STMCDI_ADD_REFERENCE } from '../modules/local/stmcdi/add_reference/main'
include { STMCDI_BUILD_GRAPH } from '../modules/local/stmcdi/build_graph/main'
include { STMCDI_EVALUATE    } from '../modules/local/stmcdi/evaluate/main'
include { STMCDI_HOLD_OUT    } from '../modules/local/stmcdi/hold_out/main'
include { STMCDI_IMPUTE      } from '../modules/local/stmcdi/impute/main'
include { STMCDI_JOIN        } from '../modules/local/stmcdi/join/main'
include { STMCDI_MERGE       } from '../modules/local/stmcdi/merge/main'
include { STMCDI_NORMALIZE   } from '../modules/local/stmcdi/normalize/main'
include { STMCDI_REPORT      } from '../modules/local/stmcdi/report/main'
include { STMCDI_SELECT_HVG  } from '../modules/local/stmcdi/select_hvg/main'
include { STMCDI_TRAIN       } from '../modules/local/stmcdi/train/main'

// A folder beside those of the tasks, for what outlives a task. Tasks get it as an input, so that containers see it, and
// its date must not change, or -resume would run them again: hence folders within, to write to.
def checkpointFolder() {
    if (workflow.preview) {
        return []
    }
    def folder = workflow.workDir.resolve('stmcdi')
    if (folder.fileSystem != java.nio.file.FileSystems.default) {
        return [] // of a bucket a task gets a copy
    }
    folder.resolve('checkpoints').mkdirs()
    folder.resolve('parts').mkdirs()
    folder.setLastModified(0)
    folder
}

// What else is known of the samples of a group: per key, what they have, once each.
def furtherColumns(metas) {
    def keys = metas.collectMany { meta -> meta.keySet() as List }.unique() - ['id', 'section_key', 'group', 'reference', 'reference_genes']
    keys.collectEntries { key -> [key, metas.collect { meta -> meta[key] }.findAll().unique().join(', ')] }
}

workflow STMCDI {
    take:
    ch_samples    // channel of [ meta, h5ad ]; meta.id is the sample's name, meta.section_key the obs column of its
                  // sections, meta.group what samples have in common that become one tissue and get one model,
                  // meta.reference the file of a reference with genes to add, meta.reference_genes a list of them
    evaluate      // whether to hide some values, and score the imputation on them
    trained       // folder of a trained model to apply; null to train one per sample or group
    impute_shards // number of tasks to share the spots of each imputation out to
    preset        // file with the settings of the models to train; null for the preset that ext.args names

    main:
    ch_arrived = ch_samples.branch { meta, _h5ad ->
        joint: meta.group
        single: true
    }
    ch_groups = ch_arrived.joint
        .map { meta, h5ad -> [meta.group, [meta, h5ad]] }
        .groupTuple()
        .map { group, members ->
            def ordered = members.sort { one, other -> one[0].id <=> other[0].id } // whichever arrived first
            def names = ordered.collect { meta, _h5ad -> meta.id }
            def first = ordered[0][0]
            def meta = [id: group, section_key: first.section_key, samples: names] + first.subMap('reference', 'reference_genes')
            [furtherColumns(ordered.collect { one, _h5ad -> one }) + meta, ordered.collect { _meta, h5ad -> h5ad }]
        }
    STMCDI_JOIN(ch_groups)
    ch_joined = STMCDI_JOIN.out.h5ad.map { meta, h5ad ->
        [meta.findAll { key, _value -> key != 'samples' } + [section_key: 'stmcdi_section'], h5ad]
    }

    ch_tissues_alone = ch_arrived.single.mix(ch_joined).branch { meta, _h5ad ->
        referenced: meta.reference
        complete: true
    }
    STMCDI_ADD_REFERENCE(
        ch_tissues_alone.referenced.map { meta, h5ad ->
            [meta, h5ad, file(meta.reference), meta.reference_genes ? file(meta.reference_genes) : trained ?: []]
        }
    )
    STMCDI_NORMALIZE(ch_tissues_alone.complete.mix(STMCDI_ADD_REFERENCE.out.h5ad))
    STMCDI_SELECT_HVG(STMCDI_NORMALIZE.out.h5ad, trained ?: [])
    STMCDI_BUILD_GRAPH(STMCDI_SELECT_HVG.out.h5ad)
    ch_versions = STMCDI_JOIN.out.versions
        .mix(STMCDI_ADD_REFERENCE.out.versions, STMCDI_NORMALIZE.out.versions, STMCDI_SELECT_HVG.out.versions, STMCDI_BUILD_GRAPH.out.versions)

    ch_tissues = STMCDI_BUILD_GRAPH.out.h5ad
    ch_truths = channel.empty()
    if (evaluate) {
        STMCDI_HOLD_OUT(ch_tissues)
        ch_tissues = STMCDI_HOLD_OUT.out.h5ad
        ch_truths = STMCDI_HOLD_OUT.out.truth
        ch_versions = ch_versions.mix(STMCDI_HOLD_OUT.out.versions)
    }

    checkpoints = checkpointFolder()
    ch_models = ch_tissues.map { meta, _h5ad -> [meta, trained] }
    if (!trained) {
        STMCDI_TRAIN(ch_tissues, checkpoints, preset ?: [])
        ch_models = STMCDI_TRAIN.out.model
        ch_versions = ch_versions.mix(STMCDI_TRAIN.out.versions)
    }

    ch_tasks = ch_tissues.join(ch_models)
    if (impute_shards > 1) {
        ch_tasks = ch_tasks.flatMap { meta, h5ad, folder ->
            (1..impute_shards).collect { number -> [meta + [shard: "${number}/${impute_shards}".toString()], h5ad, folder] }
        }
    }
    STMCDI_IMPUTE(ch_tasks, checkpoints)
    ch_imputed = STMCDI_IMPUTE.out.h5ad
    if (impute_shards > 1) {
        STMCDI_MERGE(
            ch_imputed
                .map { meta, h5ad -> [meta.findAll { key, _value -> key != 'shard' }, h5ad] }
                .groupTuple(size: impute_shards, sort: { one, other -> one.name <=> other.name })
        )
        ch_imputed = STMCDI_MERGE.out.h5ad
        ch_versions = ch_versions.mix(STMCDI_MERGE.out.versions)
    }
    STMCDI_EVALUATE(ch_imputed.join(ch_truths))
    ch_reported = ch_imputed.join(ch_models)
    STMCDI_REPORT(
        evaluate
            ? ch_reported.join(ch_truths)
            : ch_reported.map { meta, h5ad, folder -> [meta, h5ad, folder, []] }
    )
    ch_versions = ch_versions.mix(STMCDI_IMPUTE.out.versions, STMCDI_EVALUATE.out.versions, STMCDI_REPORT.out.versions)

    emit:
    imputed  = ch_imputed                  // channel of [ meta, h5ad ]
    model    = ch_models                   // channel of [ meta, folder ]
    truth    = ch_truths                   // channel of [ meta, h5ad ], empty unless evaluate
    metrics  = STMCDI_EVALUATE.out.metrics // channel of [ meta, json ], empty unless evaluate
    report   = STMCDI_REPORT.out.html      // channel of [ meta, html ]
    multiqc  = STMCDI_REPORT.out.multiqc   // channel of files for MultiQC
    versions = ch_versions                 // channel of versions.yml files
}
