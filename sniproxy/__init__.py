"""sniproxy: one TLS address in front of thousands of game servers. The map, in pipeline order.

What all parts share (imports nothing of ours but what stands above it):
    errors          close reasons and exceptions
    networks        addresses, and sets of networks
    histogram       how often something took how long
    settings        frozen settings, every limit with unit and default
    objects/        ssl, stream_route, upstream, service: APISIX's JSON as models
    keyring         private keys at rest
    keyring_file    the key that is made and kept where none is set
    store/          etcd and SQLite behind one contract: bytes and revisions
    log_queue       lines on their way to a descriptor, written by a thread
    log_text        a line for people at a terminal
    logs            JSON lines, or those

The pure stages (bytes, objects and `now`; no sockets, no clocks):
    client_hello    bytes -> the name that a client asks for, or why not
    proxy_protocol  the header that a load balancer puts before a connection
    access          the plugins of a route, at work
    router          name and addresses -> route
    stick_table     counts by key that all workers of a pod share
    tallies         what sessions have come to, by route
    limits          who is let in, by address and by route
    fair_queue      who waits to be set up, and whose turn it is
    tls             name -> certificate
    upstream_tls    upstream -> how TLS is spoken to its game servers
    balancing/      which node: round robin, random, least connections, by connect time, consistent hash
    health          which game servers are well, by probes and by sessions
    balancer        an upstream at work
    forbidden       addresses that no session is connected to
    name_cache      what is known of names, and when each is asked for again
    snapshot        the objects in force and their indexes; one change costs only itself
    plan            name -> what becomes of everybody who asks for it, where that is the same
    refusals        what is kept of connections that were refused
    accounting      what is known of a session -> its log line
    forecast        sessions left, sample by sample -> when a drain will be over
    statistics      counters, look by look -> traffic by the hour that is to be written
    reload          settings that were read again -> what is in force at once, and what waits

Doing:
    relay/          moves bytes both ways: the contract, the relay on trio, and the door of the native one
    deadline        a total time for a step of set-up
    cgroup          how much of the machine is ours, and how much of it is used
    descriptors     how many files and sockets a process may have
    defects         what is done about an error of ours
    turns           who is set up now, and who waits for it
    name_files      /etc/hosts and /etc/resolv.conf, as they are now
    dns_client      question -> what DNS servers say
    names           name -> addresses, asked for once for all sessions of a worker
    discovery       name of a service -> an upstream with its nodes
    eyeballs        addresses -> the first of them that answers
    upstream        upstream -> connected socket
    probes          one probe of a game server
    following       store -> whoever is kept equal to it, for ever; and how sure that is
    metrics/        what a worker counts, and the parent of all; every name and what it means
    vitals          how late a worker's loop is, and how busy its relay
    references      what ssl objects name in files and variables, and what has changed of it
    agent           remote store -> the local copy that workers follow
    config          local copy, or local store -> snapshot
    presence        what this data plane says of itself in the store
    first_flight    socket -> PROXY header and ClientHello, in time
    journal         a session that is over -> its line, and whether it is traced
    tracing/        a session that is over -> spans -> a collector of OpenTelemetry
    worker_state    what every session of a worker shares
    probing         the probes of a data plane, run in one of its workers
    session         a connection's life, on one page
    listener        sockets, accept, backing off
    reception       who accepts, and what comes of it
    small_http      a few requests over HTTP: status port and control socket

One process of several:
    channel         messages between the parent and a worker
    orders          which messages there are
    scrape          what several processes have counted -> one scrape
    status          /livez /readyz /metrics /config /refused, of all workers together
    worker          one worker: puts all that stands above together

The parent of the workers:
    slots           which worker accepts from which socket; pure
    crashes         when a worker that has died is started again; pure
    doors           the listening sockets, whoever accepts from them
    member          one worker process
    crew            all of them, kept running
    drain           how a data plane is emptied
    pressure        what is done when memory is short
    folding         traffic in the store: parts of data planes -> hours and days
    bookkeeping     what was counted -> traffic in the store
    upgrade         from one version to the next on the same sockets
    control         what an operator asks of the data plane
    parent          puts these together, and does what signals ask for

Commands:
    quickstart      everything on one machine
    corpus/         first flights, sound and broken, as data for any proxy
    conformance     plays the corpus against a proxy and judges it
    explain         what would become of a connection, and why
    commands        what commands share
    operating       drain and upgrade, asked of a running data plane
    proxy_command       the data plane
    quickstart_command  quickstart as a command
    conformance_command conformance as a command
    explain_command     explain as a command; those of the admin stand there
    cli             which there are; imports one when it is asked for

Beside this package: `admin` (the REST API, which shares only the first group), `certs`, `examples/game_echo`.
"""

__version__ = "0.1.0"
