"""Apache Kafka (KRaft) on this machine: one or three brokers as processes of ours, out of the jars of `pom.xml`.

    python -m tools.kafka.cluster --brokers 3 --port 9092     until Ctrl-C
    with KafkaCluster(brokers=3) as kafka: ... kafka.bootstrap; kafka.kill(0); kafka.start(0)

Needs Java 17 or newer, and Maven the first time, which fetches the jars into `libs`.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from filelock import FileLock

HERE: Final = Path(__file__).resolve().parent
LIBS: Final = HERE / "libs"
FETCH_S: Final = 600  # 45 MB, the first time
FORMAT_S: Final = 60
READY_S: Final = 90  # a start takes 3 to 10 s; a machine under load many times that
PORT_TRIES: Final = 5  # a port found free may be taken by another before the broker binds it
HEAP_MB: Final = {1: 512, 3: 384}


class KafkaMissing(Exception):
    """This machine cannot run a broker; the message says what it lacks."""


class KafkaFailed(Exception):
    """A broker did not start; the message has the end of its log."""


def fetch() -> Path:
    """The folder of Kafka's jars, which Maven fetches when it is not there or older than `pom.xml`. Raises
    KafkaMissing."""
    if shutil.which("java") is None:
        raise KafkaMissing("no Java on the PATH: install Java 17 or newer")
    pom, stamp = HERE / "pom.xml", LIBS / ".complete"
    with FileLock(HERE / "libs.lock"):
        if stamp.exists() and stamp.read_bytes() == pom.read_bytes():
            return LIBS
        if shutil.which("mvn") is None:
            raise KafkaMissing("no Maven on the PATH, which fetches Kafka's jars: install Maven")
        shutil.rmtree(LIBS, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={LIBS}", "-DincludeScope=runtime"],
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
        )
        if done.returncode:
            raise KafkaMissing(f"Maven did not fetch Kafka's jars: {(done.stdout + done.stderr)[-500:].strip()}")
        stamp.write_bytes(pom.read_bytes())
    return LIBS


@dataclass
class _Broker:
    """A broker's folder, ports and process."""

    number: int
    folder: Path
    port: int
    controller_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class KafkaCluster:
    """One or three brokers in a folder of their own. `start_all` or a `with` starts them; `close` ends them and removes
    the folder."""

    brokers: int = 1
    port: int = 0  # of the first broker, the next ones follow; 0: free ports
    session_s: float = 4.0  # a broker that is silent for so long is dead: one that dies is noticed within seconds
    _folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kafka-")))
    _brokers: list[_Broker] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self._brokers)

    @property
    def pids(self) -> list[int]:
        """Of the brokers that run."""
        return [broker.process.pid for broker in self._brokers if broker.is_running and broker.process]

    def start_all(self) -> None:
        """Formats and starts all brokers; on return each answers. Raises KafkaMissing, KafkaFailed."""
        libs = fetch()
        for attempt in range(1, PORT_TRIES + 1):
            self._lay_out(libs)
            for broker in self._brokers:
                self._launch(broker)
            try:
                for broker in self._brokers:
                    self._wait(broker)
                return
            except KafkaFailed as failed:
                if attempt == PORT_TRIES or self.port or "BindException" not in str(failed):
                    raise
                for broker in self._brokers:
                    self.kill(broker.number)

    def start(self, number: int) -> None:
        """Starts a broker that is not running, on the data it had; on return it answers."""
        broker = self._brokers[number]
        if not broker.is_running:
            self._launch(broker)
        self._wait(broker)

    def stop(self, number: int) -> None:
        """Ends a broker as an operator would."""
        self._end(number, signal.SIGTERM)

    def kill(self, number: int) -> None:
        self._end(number, signal.SIGKILL)

    def pause(self, number: int) -> None:
        self._signal(number, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        self._signal(number, signal.SIGCONT)

    def close(self) -> None:
        for broker in self._brokers:
            self.kill(broker.number)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- one broker ----------------------------------------------------------------------------------------------

    def _lay_out(self, libs: Path) -> None:
        """Ports, folders, configuration and formatted storage."""
        shutil.rmtree(self._folder, ignore_errors=True)
        ports = _free_ports(2 * self.brokers)
        self._brokers = [
            _Broker(number, self._folder / str(number), self.port + number if self.port else ports.pop(), ports.pop())
            for number in range(self.brokers)
        ]
        cluster_id = _cluster_id()
        formats = []
        for broker in self._brokers:
            broker.folder.mkdir(parents=True)
            (broker.folder / "server.properties").write_text(self._properties(broker), encoding="utf-8")
            command = _java(libs, 128, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c")
            formats.append(
                subprocess.Popen(
                    [*command, str(broker.folder / "server.properties")],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        for process in formats:
            said, _ = process.communicate(timeout=FORMAT_S)
            if process.returncode:
                raise KafkaFailed(f"storage was not formatted: {said.decode(errors='replace')[-2000:]}")

    def _properties(self, broker: _Broker) -> str:
        voters = ",".join(f"{each.number}@127.0.0.1:{each.controller_port}" for each in self._brokers)
        replicas, in_sync = (3, 2) if self.brokers >= 3 else (1, 1)
        listeners = f"PLAINTEXT://{broker.address},CONTROLLER://127.0.0.1:{broker.controller_port}"
        lines = {
            "process.roles": "broker,controller",
            "node.id": broker.number,
            "controller.quorum.voters": voters,
            "listeners": listeners,
            "advertised.listeners": f"PLAINTEXT://{broker.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": broker.folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": 4,
            # A group starts at once, and a dead member is noticed as soon as its client asks for.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "group.consumer.min.session.timeout.ms": 1000,
            "group.consumer.min.heartbeat.interval.ms": 200,
            "broker.session.timeout.ms": round(1_000 * self.session_s),
            "broker.heartbeat.interval.ms": 500,
            # Compaction within a test's patience.
            "log.cleaner.backoff.ms": 500,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _launch(self, broker: _Broker) -> None:
        with broker.log.open("ab") as log:
            broker.process = subprocess.Popen(
                [
                    *_java(LIBS, HEAP_MB.get(self.brokers, 384), "kafka.Kafka"),
                    str(broker.folder / "server.properties"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal ends us, and we end it
            )

    def _wait(self, broker: _Broker) -> None:
        """Returns when the broker says that it has started and its port answers."""
        # Here, since the client library takes its time to load.
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        deadline = time.monotonic() + READY_S
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0, "socket.timeout.ms": 2000})
        while time.monotonic() < deadline:
            if not broker.is_running:
                break
            try:
                known = admin.list_topics(timeout=1.0)
            except KafkaException:
                continue  # it waited within
            if broker.number in known.brokers:
                return
            time.sleep(0.05)
        end = broker.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise KafkaFailed(f"broker {broker.number} did not start within {READY_S} s; the end of its log:\n{end}")

    def _end(self, number: int, how: signal.Signals) -> None:
        broker = self._brokers[number]
        if broker.process is not None and broker.is_running:
            broker.process.send_signal(how)
            broker.process.send_signal(signal.SIGCONT)  # a paused one hears SIGTERM only then
        if broker.process is not None:
            broker.process.wait(timeout=READY_S)

    def _signal(self, number: int, which: signal.Signals) -> None:
        process = self._brokers[number].process
        if process is not None and process.poll() is None:
            process.send_signal(which)


def _java(libs: Path, heap_mb: int, *arguments: str) -> list[str]:
    options = [f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", *options, quiet, "-cp", str(libs / "*"), *arguments]


def _cluster_id() -> str:
    """22 characters of URL-safe base64 that do not begin with a minus, which would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _free_ports(count: int) -> list[int]:
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs Apache Kafka on this machine until Ctrl-C.")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--port", type=int, default=9092, help="of the first broker; the next ones follow")
    options = parser.parse_args()
    try:
        with KafkaCluster(options.brokers, options.port) as kafka:
            print(f"export METERHOUSE_KAFKA_BOOTSTRAP={kafka.bootstrap}", flush=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
    except (KafkaMissing, KafkaFailed) as trouble:
        raise SystemExit(f"kafka: {trouble}") from None
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
