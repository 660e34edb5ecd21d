"""The admin API: REST in the style of Apache APISIX over a store. A change's life, in order:

    auth          who asks, and may they
    body          bytes -> JSON, bounded
    rules         JSON -> checked object: schema, certificates; keys encrypted
    references    what objects refer to
    catalog       all objects as the store has them, kept at hand
    listing       which of them a list shows: filters and pages
    details       ?detail=true: what a certificate says, and which routes use it
    resources     the requests themselves: one store write each, and the answers
    waiting       ?wait=all: where a write is in force
    asking        a request and its answer, as the sections see them
    kinds         the sections of ssls, stream_routes, upstreams and services
    nodes         the section of the data planes
    traffic       traffic by the hour and by the day, read and added up
    statistics    the section of the traffic statistics, as JSON and as CSV
    foreign       the sections of APISIX's HTTP collections, of which there is nothing here
    schemas       /schema: JSON Schema of the kinds, and objects tried against it
    plugins       /plugins: names and schemas of the plugins
    configs       /configs/validate: whole configurations tried, all errors told
    openapi       /openapi.json and /docs: the API described, made from the models
    operations    ... its paths: methods, parameters, bodies
    answers       ... its answers: envelopes, errors, headers
    page          ... and the page that shows it
    markers       what an APISIX expects in an etcd
    app           sections by path, errors -> answers
    server        uvicorn
    reading       whole configurations as YAML or JSON, and the objects in them
    bulk          apply: many objects at once, through the API or straight into the store
    backup        dump and restore: a whole store as a file, and back
    backup_files  dumps as files that are whole, and the newest of them
    rotation      all private keys of a store under the first key
    key_commands  `sniproxy keyring`

Imports of `sniproxy` only what both share: objects, store, settings, keyring, errors, logs.
"""
