// Memory that a task asks for: some by itself, and some for each byte of its files. A task that is tried again asks for as much
// once more. What the steps were measured to need is in docs/hpc.md.
def memoryFor(base, times, files, attempt) {
    def bytes = [files].flatten().collect { file -> sizeOf(file) }.sum()
    (base + nextflow.util.MemoryUnit.of((bytes * times) as long)) * attempt
}

// Size in bytes. A file that is elsewhere and does not tell its size counts as 1 GiB.
def sizeOf(file) {
    def unknown = 1L << 30
    try {
        return file.size() < 0 ? unknown : file.size()
    }
    catch (Exception _error) {
        return unknown
    }
}
