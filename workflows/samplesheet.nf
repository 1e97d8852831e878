// Reads the samplesheet, before any task is queued: the rules of `stmcdi check-samplesheet`, in the same words.

// The samples as [ meta, h5ad ], and all that is wrong with the sheet, which messages call `name`. Columns that we do not know travel in meta.
def readSamplesheet(sheet, name) {
    def table = readTable(sheet)
    if (table.fault) {
        return [samples: [], faults: ["${name}: cannot be read as CSV in UTF-8 (${table.fault}); save it as such"]]
    }
    if (!table.rows) {
        return [samples: [], faults: ["${name}: expected a header, found an empty file; start it with ${knownColumns().join(',')}"]]
    }
    def header = readHeader(table.rows[0].cells)
    def faults = headerFaults(header, name)
    if (!faults && table.rows.size() < 2) {
        faults = ["${name}: expected at least 1 sample, found none; add a row for each sample"]
    }
    if (faults) {
        return [samples: [], faults: faults]
    }
    def patterns = columnPatterns()
    def rows = table.rows.drop(1).collect { row -> readRow(row, header, patterns, sheet) }
    def named = rows.findAll { row -> row.columns }
    def repeated = named.groupBy { row -> row.columns.sample }.collectMany { sample, same ->
        same.drop(1).collect { row ->
            [line: row.line, text: "sample '${sample}' is also in line ${same[0].line}; give each sample its own name"]
        }
    }
    def ofRows = (repeated + rows.collectMany { row -> row.faults }).sort { fault -> fault.line }
    [
        samples: named.collect { row -> [metaOf(row.columns, row.reference), row.h5ad] },
        references: named.collectEntries { row -> [row.columns.sample, row.reference] },
        faults: ofRows.collect { fault -> "${name}, line ${fault.line}: ${fault.text}" } + groupFaults(named, name),
    ]
}

def knownColumns() {
    ['sample', 'h5ad', 'section_key', 'group']
}

// What a cell of each known column may be; `stmcdi check-samplesheet` reads the same file.
def columnPatterns() {
    def schema = new groovy.json.JsonSlurper().parseText(file("${moduleDir}/../assets/schema_input.json").text)
    schema.items.properties.collectEntries { column, rule -> [column, "(?U)${rule.pattern}".toString()] }
}

def metaOf(columns, reference) {
    def known = [id: columns.sample, section_key: columns.section_key ?: null]
    def others = columns.findAll { column, _cell -> !(column in knownColumns() + ['reference']) }
    others + known + (columns.group ? [group: columns.group] : [:]) + (reference ? [reference: reference.toString()] : [:])
}

// The rows that are not blank, each with its line and its cells; `fault` says why there are none.
def readTable(sheet) {
    // Not getText: that ends in an error at the first letter of another encoding.
    def text = new String(sheet.bytes, 'UTF-8').replaceFirst('^\uFEFF', '')
    if (text.contains('\uFFFD')) {
        return [fault: 'letters of another encoding']
    }
    def header = text.readLines().find { line -> line.replaceAll(/[ ,;\t]/, '') } ?: ''
    // What separates the cells: of the three, the one that the header has most of.
    def separator = [',', ';', '\t'].max { candidate -> header.count(candidate) }
    // A quoted or a plain cell, and what ends it. A quote within quotes is written twice.
    def cell = /\G(?:"((?:[^"]++|"")*+)"|((?!")[^\r\n/ + separator + /]*))(/ + separator + /|\r\n|\r|\n|\z)/
    def rows = []
    def cells = []
    def line = 1
    def read = 0
    (text =~ cell).each { whole, quoted, plain, end ->
        read += whole.size()
        line += (quoted ?: '').count('\n')
        cells << (quoted == null ? plain : quoted.replace('""', '"')).trim()
        if (end != separator) {
            rows << [line: line, cells: cells]
            cells = []
            line += 1
        }
    }
    if (read < text.size()) {
        def rest = text.substring(read)
        return [fault: rest ==~ /(?s)"(?:[^"]++|"")*+/ ? 'unexpected end of data' : "'${separator}' expected after '\"'"]
    }
    [rows: rows.findAll { row -> row.cells.any() }]
}

// Names of the columns, ours in lower case; those without a name are left out later.
def readHeader(cells) {
    def last = cells.findLastIndexOf { cell -> cell }
    cells.take(last + 1).collect { cell -> cell.toLowerCase() in knownColumns() + ['reference'] ? cell.toLowerCase() : cell }
}

def headerFaults(header, name) {
    def columns = header.findAll { column -> column }.unique(false)
    def ofColumns = columns.collectMany { column ->
        def repeated = header.count(column) > 1
        def reserved = column in ['id', 'shard', 'samples', 'reference_genes'] // what the workflow notes in meta itself
        repeated
            ? ["expected column '${column}' once, found it again; remove one"]
            : reserved ? ["expected no column '${column}', found one; rename it"] : []
    }
    def absent = ['sample', 'h5ad']
        .findAll { column -> !(column in header) }
        .collect { column -> "expected a column '${column}', found ${header.join(', ')}; add it" }
    (ofColumns + absent).collect { fault -> "${name}, line 1: ${fault}" }
}

// One row: its cells by column, its file, and what is wrong with them.
def readRow(row, header, patterns, sheet) {
    def beyond = row.cells.drop(header.size())
    def cells = beyond.any() ? row.cells : row.cells.take(header.size())
    if (cells.size() != header.size()) {
        def text = "expected ${header.size()} cells, found ${cells.size()}; check the separators"
        return [line: row.line, columns: null, h5ad: null, reference: null, faults: [[line: row.line, text: text]]]
    }
    def columns = [sample: '', h5ad: '', section_key: '', group: ''] +
        [header, cells].transpose().findAll { column, _cell -> column }.collectEntries()
    def words = patterns
        .findAll { column, pattern -> !(column in ['h5ad', 'reference']) && !(columns[column] ==~ pattern) }
        .collect { column, _pattern ->
            "expected ${column} to be made of letters a to z, digits, '.', '_' and '-' " +
                "and to start with a letter or digit, found '${columns[column]}'; rename it"
        }
    def located = locate(columns.h5ad, 'h5ad', patterns.h5ad, sheet)
    def reference = columns.reference ? locate(columns.reference, 'reference', patterns.h5ad, sheet) : [:]
    def ofFiles = [located.fault, reference.fault].findAll { fault -> fault }
    def faults = (words + ofFiles).collect { text -> [line: row.line, text: text] }
    [line: row.line, columns: columns, h5ad: located.file, reference: reference.file, faults: faults]
}

// The file that a cell names; relative paths start at the sheet.
def locate(h5ad, column, allowed, sheet) {
    if (!h5ad) {
        return [fault: "expected a path in h5ad, found an empty cell; name the sample's file"]
    }
    // Nextflow writes a file's name into the script of its task; its folders only into links, where it escapes them.
    if (!(h5ad ==~ allowed)) {
        return [
            fault: "expected the path in ${column} to have no quotes, \$, ; and the like, and the file's name no spaces, " +
                "found '${h5ad}'; rename it or link to it"
        ]
    }
    if (h5ad ==~ /[A-Za-z][A-Za-z0-9+.-]*:\/\/.*/) {
        return [file: h5ad]
    }
    def path = sheet.parent.resolve(h5ad.startsWith('~/') ? "${workflow.homeDir}${h5ad.drop(1)}".toString() : h5ad)
    if (path.isFile()) {
        return [file: path]
    }
    path.isDirectory()
        ? [fault: "expected an h5ad file, found the folder '${h5ad}'; turn it into one by `stmcdi import ${h5ad} ${path.name}.h5ad`"]
        : [fault: "no file '${h5ad}' in ${sheet.parent}; correct the path (relative ones start at the sheet)"]
}

// Groups that cannot become one tissue under one name.
def groupFaults(rows, name) {
    def samples = rows.collect { row -> row.columns.sample }
    rows.findAll { row -> row.columns.group }
        .groupBy { row -> row.columns.group }
        .collectMany { group, members ->
            def differing = ['section_key', 'reference'].find { column ->
                members.collect { row -> row.columns[column] ?: '' }.unique().size() > 1
            }
            group in samples
                ? ["${name}: '${group}' is the name of a sample and of a group; rename one of them"]
                : differing
                    ? ["${name}: expected one ${differing} in all samples of group '${group}'; make them the same"]
                    : []
        }
}
