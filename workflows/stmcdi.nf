// The workflow that other pipelines include. It reads no parameters: what a step does is set by its ext.args.
include { BUILD_GRAPH } from '../modules/local/stmcdi/build_graph/main'
include { EVALUATE    } from '../modules/local/stmcdi/evaluate/main'
include { HOLD_OUT    } from '../modules/local/stmcdi/hold_out/main'
include { IMPUTE      } from '../modules/local/stmcdi/impute/main'
include { NORMALIZE   } from '../modules/local/stmcdi/normalize/main'
include { SELECT_HVG  } from '../modules/local/stmcdi/select_hvg/main'
include { TRAIN       } from '../modules/local/stmcdi/train/main'

workflow STMCDI {
    take:
    samples  // channel of [ meta, h5ad ]; meta.id is the sample's name, meta.section_key the obs column of its sections
    evaluate // whether to hide some values, and score the imputation on them

    main:
    NORMALIZE(samples)
    SELECT_HVG(NORMALIZE.out.h5ad)
    BUILD_GRAPH(SELECT_HVG.out.h5ad)
    versions = NORMALIZE.out.versions.mix(SELECT_HVG.out.versions, BUILD_GRAPH.out.versions)

    tissues = BUILD_GRAPH.out.h5ad
    truths = channel.empty()
    if (evaluate) {
        HOLD_OUT(tissues)
        tissues = HOLD_OUT.out.h5ad
        truths = HOLD_OUT.out.truth
        versions = versions.mix(HOLD_OUT.out.versions)
    }

    TRAIN(tissues)
    IMPUTE(tissues.join(TRAIN.out.model))
    EVALUATE(IMPUTE.out.h5ad.join(truths))
    versions = versions.mix(TRAIN.out.versions, IMPUTE.out.versions, EVALUATE.out.versions)

    emit:
    imputed  = IMPUTE.out.h5ad       // channel of [ meta, h5ad ]
    model    = TRAIN.out.model       // channel of [ meta, folder ]
    truth    = truths                // channel of [ meta, h5ad ], empty unless evaluate
    metrics  = EVALUATE.out.metrics  // channel of [ meta, json ], empty unless evaluate
    versions = versions              // channel of versions.yml files
}
