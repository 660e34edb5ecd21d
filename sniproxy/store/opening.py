"""The store that the settings name."""

from sniproxy.settings import Settings, SqliteUrl
from sniproxy.store import Store
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from sniproxy.store.sqlite import SqliteStore


def open_store(settings: Settings, *, make: bool = True) -> Store:
    """Opens nothing yet: connections and files are opened at the first call.

    make: the file in SQLite where there is none; False for who only looks.
    """
    where = settings.where
    if isinstance(where, SqliteUrl):
        store = SqliteStore(where.path)
        store.makes = make
        return store
    etcd = settings.etcd
    return EtcdStore(
        EtcdConfig(
            endpoints=where.endpoints,
            user=etcd.user,
            password=etcd.password,
            ca_file=etcd.ca_file,
            cert_file=etcd.cert_file,
            key_file=etcd.key_file,
            timeout=etcd.timeout,
            watch_silence=etcd.watch_silence,
        )
    )
