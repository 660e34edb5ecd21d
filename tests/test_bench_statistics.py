"""The bench of the traffic statistics runs, and says what each figure is."""

from click.testing import CliRunner

from bench.statistics import main


def test_it_runs_and_prints_bytes_and_times() -> None:
    options = ["--routes", "2", "--pods", "2", "--workers", "1"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0
    for line in done.output.splitlines()[2:]:
        what, _, figures = line.rpartition(":")
        assert what
        assert float(figures.split(";")[0].split()[0]) >= 0
