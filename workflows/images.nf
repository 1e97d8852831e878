// Whether the container images of a run are there. The default image is in no registry, so Nextflow cannot fetch it.

// What is missing, in one line; null where nothing is, or where that cannot be known here.
def missingImage(config, engine, params) {
    def settings = config.process
    def byName = settings.any { key, value -> key.startsWith('with') && value instanceof Map && value.container }
    def images = byName ? [] : [false, params.device == 'cuda'].collect { gpu -> imageOf(settings.container, params, gpu) }
    def absent = images.unique().findAll { image -> image?.startsWith('localhost/') && isAbsent(image, config, engine) }
    absent ? "no image ${absent.join(', ')} on this machine; ${howToGet(absent, engine)}" : null
}

// The image of a step, with a GPU or without.
def imageOf(container, params, gpu) {
    if (!(container instanceof Closure)) {
        return container?.toString()
    }
    def choice = container.rehydrate([task: [accelerator: gpu ? [request: 1] : null], params: params], null, null)
    choice.resolveStrategy = Closure.DELEGATE_ONLY
    choice.call()?.toString()
}

def isAbsent(image, config, engine) {
    if (engine in ['singularity', 'apptainer', 'charliecloud']) {
        def scope = config[engine] ?: [:]
        def variable = "NXF_${engine.toUpperCase()}"
        def standard = workflow.workDir.resolve(engine == 'apptainer' ? 'singularity' : engine)
        def folders = [
            scope.cacheDir ?: System.getenv("${variable}_CACHEDIR") ?: standard,
            scope.libraryDir ?: System.getenv("${variable}_LIBRARYDIR"),
        ]
        def name = image.replaceAll('[/:]', '-') // as Nextflow names what it keeps
        return !folders.any { folder -> folder && ["${name}.img", name].any { entry -> file("${folder}/${entry}").exists() } }
    }
    // On a cluster the nodes' own stores count, which are not seen from here.
    def here = config.process.executor in [null, 'local']
    def question = [docker: ['docker', 'image', 'inspect'], podman: ['podman', 'image', 'exists']][engine]
    question && here ? answersNo(question + [image]) : false
}

// Whether a program ends with exit code 1, which docker and podman give for an image they do not have. Where docker has
// another reason, it says so.
def answersNo(command) {
    try {
        def asked = new ProcessBuilder(command.collect { word -> word.toString() }).redirectErrorStream(true).start()
        def said = asked.inputStream.text
        return asked.waitFor() == 1 && (command[0] == 'podman' || said.toLowerCase().contains('no such image'))
    }
    catch (IOException _absent) {
        return false
    }
}

def howToGet(images, engine) {
    if (!(engine in ['docker', 'podman'])) {
        return "make an image file of it (docs/hpc.md) and name that by --container /path/to/stmcdi.sif"
    }
    def by = engine == 'docker' ? ' ENGINE=docker' : ''
    def commands = images.collect { image -> "`make image${image.endsWith('-cuda') ? ' VARIANT=cuda' : ''}${by}`" }
    "build it by ${commands.join(' and ')} in ${projectDir}, or name another by --container"
}
