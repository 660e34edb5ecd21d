"""The store that the settings name."""

from sniproxy.settings import Settings, SqliteUrl
from sniproxy.store import Store
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from sniproxy.store.sqlite import SqliteStore


def open_store(settings: Settings) -> Store:
    """Opens nothing yet: connections and files are opened at the first call."""
    where = settings.where
    if isinstance(where, SqliteUrl):
        return SqliteStore(where.path)
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
