"""The admin API: REST in the style of Apache APISIX over a store. A change's life, in order:

    auth          who asks, and may they
    body          bytes -> JSON, bounded
    rules         JSON -> checked object: schema, certificates, references; keys encrypted
    resources     the requests themselves: one store write each, and the answers
    waiting       ?wait=all and /nodes: where a write is in force
    markers       what an APISIX expects in an etcd
    app           paths, errors -> answers
    server        uvicorn
    bulk          apply: many objects at once, through the API or straight into the store
    backup        dump and restore: a whole store as a file, and back
    backup_files  dumps as files that are whole, and the newest of them
    rotation      all private keys of a store under the first key
    key_commands  `sniproxy keyring`

Imports of `sniproxy` only what both share: objects, store, settings, keyring, errors, logs.
"""
