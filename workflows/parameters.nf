// Parameters against nextflow_schema.json, without a plugin, so that it works with no network too.

// Every parameter of the schema, by name, in its order.
def parametersOf(schema) {
    schema['$defs'].values().collectEntries { group -> group.properties }
}

// What is wrong with the parameters, in one line; null where nothing is. Unknown names come first: a mistyped
// parameter is why another one is missing.
def firstFault(params, schema) {
    def known = parametersOf(schema)
    def required = schema['$defs'].values().collectMany { group -> group.required ?: [] }
    def unknown = params.keySet().findAll { name -> !known.containsKey(name) }
    def absent = required.findAll { name -> params[name] == null }
    def faults = unknown.findResults { name -> unknownName(name, params, known) } +
        absent.collect { name -> "--${name} is required: ${known[name].description}" } +
        known.findResults { name, rule -> params[name] == null ? null : wrongValue(name, params[name], rule) }
    faults ? faults.first() : null
}

def unknownName(name, params, known) {
    // Nextflow adds a camelCase twin to a name with dashes; the name as it was typed is the one to report.
    def twins = params.keySet().findAll { other -> other.contains('-') && camelCase(other) == name }
    if (twins) {
        return null
    }
    def nearest = known.keySet().min { candidate -> editDistance(name.replace('-', '_'), candidate) }
    "unknown parameter --${name}; the nearest is --${nearest} (all of them: --help)"
}

def camelCase(name) {
    name.replaceAll(/-([a-zA-Z0-9])/) { match -> match[1].toUpperCase() }
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

// The rules that our schema uses. Nextflow reads numbers and true/false from the command line by their looks, so a
// string may arrive as a number; a flag without its value arrives as true.
def wrongValue(name, value, rule) {
    def fits = [
        string : { candidate -> !(candidate instanceof Boolean) },
        integer: { candidate -> candidate instanceof Integer || candidate instanceof Long },
        number : { candidate -> candidate instanceof Number },
        boolean: { candidate -> candidate instanceof Boolean },
    ]
    def a = rule.type == 'integer' ? 'an integer' : "a ${rule.type}"
    if (!fits[rule.type](value)) {
        return "--${name} needs ${a}, not '${value}'"
    }
    if (rule['enum'] && !(value.toString() in rule['enum'])) {
        return "--${name} must be one of ${rule["enum"].join(', ')}, not '${value}'"
    }
    if (rule.pattern && !(value.toString() =~ rule.pattern)) {
        return "--${name} '${value}' does not have the form ${rule.pattern}"
    }
    if (rule.minimum != null && value < rule.minimum) {
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
