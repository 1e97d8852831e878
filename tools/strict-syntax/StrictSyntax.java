// Reads scripts and configurations by Nextflow's strict syntax, the only one from 26.04 on; prints what does not fit.
//   java -cp 'JARS/*' StrictSyntax.java FILE...        JARS: what pom.xml names
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import nextflow.config.control.ConfigParser;
import nextflow.script.control.ScriptParser;
import org.codehaus.groovy.control.SourceUnit;
import org.codehaus.groovy.control.messages.SyntaxErrorMessage;

class StrictSyntax {
    public static void main(String[] names) {
        var scripts = new ScriptParser();
        var configs = new ConfigParser();
        List<SourceUnit> sources = new ArrayList<>();
        for (String name : names) {
            var file = new File(name);
            sources.add(name.endsWith(".config") ? configs.parse(file) : scripts.parse(file));
        }
        scripts.analyze();
        configs.analyze();
        for (SourceUnit source : sources) {
            if (!source.getErrorCollector().hasErrors()) {
                continue;
            }
            for (var message : source.getErrorCollector().getErrors()) {
                var error = ((SyntaxErrorMessage) message).getCause();
                System.out.println(source.getName() + ":" + error.getStartLine() + ": " + error.getOriginalMessage());
            }
        }
    }
}
