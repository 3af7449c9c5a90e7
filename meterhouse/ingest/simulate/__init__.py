"""A seeded workload: what gateways and model nodes of a busy platform would send, good and bad.

`Workload` holds the knobs, `arrivals` the stream that they make, `records` the stream as a gateway's publisher would
put it into the log. Pure: the same workload is the same bytes, on any machine with the same numpy.
"""

from meterhouse.ingest.simulate.arrivals import Arrival, arrivals, records
from meterhouse.ingest.simulate.workload import Workload

__all__ = ["Arrival", "Workload", "arrivals", "records"]
