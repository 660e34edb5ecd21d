"""PromQL as the dashboard needs it: of the pods, or of the routes, that were chosen at its top."""

PODS = 'namespace=~"$namespace", pod=~"$pod"'
ROUTES = f'{PODS}, route=~"$route"'
BY_POD = "by (pod, instance)"
EACH = "{{pod}} {{instance}}"  # the legend of it


def rate(name: str, by: str = "", selector: str = PODS) -> str:
    """A counter per second, summed."""
    return f"sum{by and f' {by} '}(rate({name}{{{selector}}}[$__rate_interval]))"


def increase(name: str, by: str) -> str:
    """What a counter grew by between two points of the picture."""
    return f"sum {by} (increase({name}{{{PODS}}}[$__rate_interval]))"


def total(name: str, by: str = "", selector: str = PODS, how: str = "sum") -> str:
    """A gauge, put together over pods."""
    return f"{how}{by and f' {by} '}({name}{{{selector}}})"


def quantiles(name: str) -> dict[str, str]:
    """What half, and what ninety-nine of a hundred, stay below."""
    buckets = rate(f"{name}_bucket", "by (le)")
    return {
        "half": f"histogram_quantile(0.5, {buckets})",
        "99 %": f"histogram_quantile(0.99, {buckets})",
    }
