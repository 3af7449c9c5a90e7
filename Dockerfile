# The image of all Meterhouse's processes; the command says which one. `docker compose build` makes it.
FROM node:22.18.0-bookworm-slim AS pages
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts
COPY tools/pages tools/pages
COPY meterhouse/api/pages meterhouse/api/pages
RUN node tools/pages/build.mjs

FROM python:3.11.13-slim-bookworm AS made
WORKDIR /src
COPY requirements requirements
# Wheels alone, each as the lock has it: nothing is compiled.
RUN python -m venv --without-pip /opt/meterhouse \
 && pip --python /opt/meterhouse install --no-cache-dir --require-hashes --only-binary :all: -r requirements/run.txt \
 && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md ./
COPY meterhouse meterhouse
COPY --from=pages /src/meterhouse/api/pages/static/built meterhouse/api/pages/static/built
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && pip --python /opt/meterhouse install --no-cache-dir --no-deps wheels/*.whl

FROM python:3.11.13-slim-bookworm
RUN groupadd --gid 10001 meterhouse \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/meterhouse --create-home --shell /usr/sbin/nologin meterhouse
COPY --from=made /opt/meterhouse /opt/meterhouse
ENV PATH=/opt/meterhouse/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    METERHOUSE_HOME=/var/lib/meterhouse
USER 10001:10001
WORKDIR /var/lib/meterhouse
ENTRYPOINT ["meterhouse"]
