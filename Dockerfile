# Build arguments: BASE_IMAGE (Debian-based Python 3.11 or newer), PIP_OPTIONS (pip's own; decides the torch build).
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_OPTIONS=""
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md ./
COPY service ./service
COPY models ./models
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ${PIP_OPTIONS} . \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Errorbar" \
      org.opencontainers.image.description="An honest error bar on every prediction of a network with dropout"
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ERRORBAR_HOST=0.0.0.0
COPY --from=build /opt/venv /opt/venv
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["errorbar"]
CMD ["serve"]
