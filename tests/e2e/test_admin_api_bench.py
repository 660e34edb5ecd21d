"""The bench of the admin API in small: it runs on both stores, whatever the figures are."""

from click.testing import CliRunner

from bench.admin_api import main


def test_it_runs_on_both_stores() -> None:
    result = CliRunner().invoke(main, ["--routes", "300", "--requests", "3", "--no-bars"])
    assert result.exit_code == 0, result.output
    for store in ("sqlite: 300 stream routes", "etcd: 300 stream routes"):
        assert store in result.output
    assert result.output.count("  PUT of a route ") == 2
    assert result.output.count("memory of the admin") == 2
