"""Where the rows of sniproxy/corpus/hellos.jsonl come from; `bench.make_corpus` puts them together.

What a row expects is written here by hand. The word for a refusal is the parser's own, pinned by the committed file.
"""
