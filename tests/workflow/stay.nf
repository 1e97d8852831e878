// Runs commands of Nextflow one after the other in this process: a line of stdin holds the words of one, and the line of
// stdout that answers it the exit code and what it wrote to stdout and stderr.
def answers = System.out
System.in.eachLine { line ->
    def words = new groovy.json.JsonSlurper().parseText(line)
    def streams = [new ByteArrayOutputStream(), new ByteArrayOutputStream()]
    System.setOut(new PrintStream(streams[0], true))
    System.setErr(new PrintStream(streams[1], true))
    nextflow.plugin.Plugins.stop() // those of the command before
    def launcher = new nextflow.cli.Launcher().command(words as String[])
    launcher.@cliString = "nextflow ${words.join(' ')}".toString() // what `workflow.commandLine` reports
    def code = launcher.run()
    answers.println(groovy.json.JsonOutput.toJson([code] + streams*.toString()))
    answers.flush()
}
