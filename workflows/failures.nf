// Which samples of a run that kept going came to no result, and why.

// One line per sample that is not done: its name, the step that failed, and the cause. `trace` is the run's trace file.
def failedSamples(names, done, trace, workDir) {
    def failed = [:]
    if (trace.exists()) {
        def lines = trace.readLines()
        def columns = lines[0].tokenize('\t')
        lines.drop(1).each { line ->
            def task = [columns, line.split('\t').toList()].transpose().collectEntries()
            def tag = task.name =~ /^(\S+) \((\S+)(?: \d+\/\d+)?\)$/
            if (task.status == 'FAILED' && tag) {
                failed[tag[0][2]] = [step: tag[0][1].tokenize(':').last(), hash: task.hash, exit: task.exit]
            }
        }
    }
    names.findAll { name -> !(name in done) }.collect { name ->
        failed[name] ? "${name}: ${causeOf(failed[name], workDir)}" : "${name}: no result; see .nextflow.log"
    }
}

// The error line that the command line wrote, else the exit code.
def causeOf(task, workDir) {
    def (first, rest) = task.hash.tokenize('/')
    def folder = workDir.resolve(first)
    def matching = folder.isDirectory() ? folder.list().find { name -> name.startsWith(rest) } : null
    def log = matching ? folder.resolve(matching).resolve('.command.err') : null
    def said = log && log.exists() ? log.readLines().findAll { line -> line =~ /^stmcdi [\w-]+: / } : []
    said ? said.last() : "${task.step} ended with exit code ${task.exit}; see ${folder}/${rest}*"
}
