"""The report: its numbers (`statistics`, `reliability`, `warnings`), its pictures (`charts`, `maps`) and its `page`."""
