"""The section of the data planes: what they say of themselves. Read only, and no kind of object."""

from admin.asking import Answer, Ask, NotOffered
from admin.kinds import timely
from admin.resources import NotFound
from admin.waiting import DataPlanes


class NodesSection:
    """GET /nodes and GET /nodes/{id}. Implements `admin.asking.Section`."""

    def __init__(self, data_planes: DataPlanes) -> None:
        self._data_planes = data_planes

    async def __call__(self, ask: Ask) -> Answer:
        if ask.method != "GET" or ask.path:
            raise NotOffered
        if ask.object_id is not None:
            found = await timely(ask, self._data_planes.find(ask.object_id))
            if found is None:
                raise NotFound
            return Answer(200, found.model_dump())
        nodes = await timely(ask, self._data_planes.list())
        return Answer(200, {"list": [one.model_dump() for one in nodes], "total": len(nodes)})
