// Parameters against nextflow_schema.json, without a plugin, so that it works with no network too.

// Every parameter of the schema, by name, in its order.
def parametersOf(schema) {
    schema['$defs'].values().collectEntries { group -> group.properties }
}

// The parameters of the schema, each with the type it has there. Nextflow 26.04 hands what is typed on the command line over
// as text; earlier ones guess a type, so that a string may arrive as a number.
def typedParameters(params, schema) {
    parametersOf(schema)
        .findAll { name, _rule -> params.containsKey(name) }
        .collectEntries { name, rule -> [name, typedValue(params[name], rule.type)] }
}

// A value in its type; what cannot be converted stays as it is, to be refused.
def typedValue(value, type) {
    def text = value.toString()
    def isFlag = text.toLowerCase() in ['true', 'false']
    if (value == null || (value instanceof CharSequence ? !text : value instanceof Map || value instanceof List)) {
        return value
    }
    if (type instanceof List) { // a number, or a word
        return text.isLong() ? typedValue(value, 'integer') : typedValue(value, 'string')
    }
    if (type == 'boolean') {
        return isFlag ? text.toBoolean() : value
    }
    if (type == 'integer' && text.isLong()) {
        return text.isInteger() ? text.toInteger() : text.toLong()
    }
    if (type == 'number' && text.isBigDecimal()) {
        return text.toBigDecimal()
    }
    // A string parameter without its value arrives as `true`, which is refused.
    type == 'string' ? (isFlag ? text.toBoolean() : text) : value
}

// Names of the parameters that are typed on the command line or stand in a -params-file. What a configuration sets may be
// meant for other pipelines.
def chosenParameters(params, commandLine) {
    def session = nextflow.Global.session
    if (session.hasProperty('cliParams')) {
        return session.cliParams ? session.cliParams.keySet() : [] // from Nextflow 25.10
    }
    // The values that look like options (--cluster_options='--account=lab') are taken out first.
    def words = params.values()
        .findAll { value -> value.toString().contains('--') }
        .inject(commandLine) { line, value -> line.replace(value.toString(), '') }
        .tokenize()
        .collect { word -> word.replaceAll(/['"]/, '') }
    def typed = words.findAll { word -> word.startsWith('--') }.collect { word -> word.drop(2).tokenize('=.')[0] }
    typed.findAll { name -> name } + namesInFile(words)
}

// The names at the top of the -params-file, JSON or YAML.
def namesInFile(words) {
    def option = words.findIndexOf { word -> word == '-params-file' }
    def joined = words.findIndexOf { word -> word.startsWith('-params-file=') }
    def rest = joined >= 0 ? [words[joined].drop(13)] + words.drop(joined + 1) : option >= 0 ? words.drop(option + 1) : []
    // A name with spaces is several words here: the shortest that is a file.
    def tried = rest ? (1..rest.size()).collect { n -> rest.take(n).join(' ') } : [System.getenv('NXF_PARAMS_FILE')]
    def named = tried.find { name -> name && file(name, glob: false).isFile() }
    if (!named) {
        return []
    }
    def text = file(named, glob: false).text
    if (named.endsWith('.json')) {
        return new groovy.json.JsonSlurper().parseText(text).keySet().toList()
    }
    // A line each, as far to the right as the first, or all between braces.
    def lines = (text =~ /(?m)^( *)["']?([\w-]+)["']?\s*:/).collect { _whole, margin, name -> [margin, name] }
    text.trim().startsWith('{')
        ? (text =~ /[{,]\s*["']?([\w-]+)["']?\s*:/).collect { _whole, name -> name }
        : lines.findAll { margin, _name -> margin == lines[0][0] }.collect { _margin, name -> name }
}

// What is wrong with the parameters, in one line; null where nothing is. Unknown names come first: a mistyped
// parameter is why another one is missing.
def validateParameters(parameters, chosen, schema) {
    def known = parametersOf(schema)
    def required = schema['$defs'].values().collectMany { group -> group.required ?: [] }
    def unknown = chosen.findAll { name -> !known.containsKey(name) }
    def absent = required.findAll { name -> parameters[name] == null }
    def empty = known.findAll { name, rule ->
        rule.default != null && parameters.containsKey(name) && parameters[name] == null
    }
    def faults = unknown.collect { name -> unknownName(name, known) } +
        absent.collect { name -> "--${name} is required: ${known[name].description}" } +
        empty.collect { name, rule -> "--${name} has no value; give one, or leave it out for ${rule.default}" } +
        known.findResults { name, rule -> parameters[name] == null ? null : invalidValue(name, parameters[name], rule) }
    faults ? faults.first().toString() : null
}

def unknownName(name, known) {
    def nearest = known.keySet().min { candidate -> editDistance(name.replace('-', '_'), candidate) }
    "unknown parameter --${name}; the nearest is --${nearest} (all of them: --help)"
}

// Levenshtein distance.
def editDistance(left, right) {
    def previous = (0..right.size()).toList()
    left.toList().eachWithIndex { letter, row ->
        def current = [row + 1]
        right.toList().eachWithIndex { other, column ->
            def replaced = previous[column] + (letter == other ? 0 : 1)
            current << [previous[column + 1] + 1, current[column] + 1, replaced].min()
        }
        previous = current
    }
    previous.last()
}

// The rules that our schema uses.
def invalidValue(name, value, rule) {
    def fits = [
        string : { candidate -> candidate instanceof CharSequence },
        integer: { candidate -> candidate instanceof Integer || candidate instanceof Long },
        number : { candidate -> candidate instanceof BigDecimal },
        boolean: { candidate -> candidate instanceof Boolean },
    ]
    def isNumber = fits['integer'](value)
    def a = rule.type == 'integer' ? 'an integer' : "a ${rule.type}"
    if (rule.type instanceof List) { // a number, or the one word of the pattern
        if (!isNumber && !(value.toString() =~ rule.pattern)) {
            return "--${name} needs an integer or ${rule.pattern.replaceAll('[\\^\\$]', '')}, not '${value}'"
        }
    }
    else if (!fits[rule.type](value)) {
        return "--${name} needs ${a}, not '${value}'"
    }
    if (rule['enum'] && !(value in rule['enum'])) {
        return "--${name} must be one of ${rule["enum"].join(', ')}, not '${value}'"
    }
    if (rule.pattern && !isNumber && !(value =~ rule.pattern)) {
        return "--${name} '${value}' does not have the form ${rule.pattern}"
    }
    if (rule.minimum != null && !(value instanceof CharSequence) && value < rule.minimum) {
        return "--${name} must be at least ${rule.minimum}, not ${value}"
    }
    if (rule.maximum != null && value > rule.maximum) {
        return "--${name} must be at most ${rule.maximum}, not ${value}"
    }
    if (rule.exclusiveMinimum != null && value <= rule.exclusiveMinimum) {
        return "--${name} must be more than ${rule.exclusiveMinimum}, not ${value}"
    }
    if (rule.exclusiveMaximum != null && value >= rule.exclusiveMaximum) {
        return "--${name} must be less than ${rule.exclusiveMaximum}, not ${value}"
    }
    null
}

// The schema as the text of --help.
def helpText(schema) {
    def lines = ['Usage: nextflow run main.nf --input samplesheet.csv [--outdir results] [-profile ...] [--...]', '']
    schema['$defs'].values().each { group ->
        def shown = group.properties.findAll { _name, rule -> !rule.hidden }
        if (!shown) {
            return
        }
        lines << group.title
        shown.each { name, rule ->
            def choices = rule['enum'] ? " (${rule["enum"].join(', ')})" : ''
            def standard = rule.default == null ? '' : " [${rule.default}]"
            lines << "  --${name.padRight(20)} ${rule.description}${choices}${standard}"
        }
        lines << ''
    }
    lines.join('\n')
}
