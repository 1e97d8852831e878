// One table of all samples' scores.

// A sample's metrics file as a header line and a row.
def metricsRow(sample, json) {
    def scores = new groovy.json.JsonSlurper().parseText(json.text)
    def columns = ['sample'] + scores.keySet()
    def values = [sample] + scores.values().collect { score -> score == null ? 'NA' : score }
    "${columns.join('\t')}\n${values.join('\t')}\n"
}
