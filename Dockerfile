# Build arguments: BASE_IMAGE (Debian-based, Python 3.11 or newer), PIP_OPTIONS (pip's own; decides the torch build) and
# LOCKED: with any value, all but torch and what its build brings is held against the hashes of requirements-release.lock.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# What Errorbar needs, without Errorbar: a change of the code leaves this layer, nearly all of the image, as it is.
FROM ${BASE_IMAGE} AS packages
ARG PIP_OPTIONS=""
ARG LOCKED=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt requirements-release.lock ./
RUN if [ -n "${LOCKED}" ]; then \
      python3 -m pip --python /opt/venv/bin/python install --require-hashes ${PIP_OPTIONS} --requirement requirements-release.lock; \
    fi \
 && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt \
 && python3 -m pip --python /opt/venv/bin/python install --constraint constraints.txt ${PIP_OPTIONS} --requirement requirements.txt

FROM packages AS errorbar
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY README.md setup.py ./
COPY service ./service
COPY models ./models
RUN python3 -m pip --python /opt/venv/bin/python install --no-deps --prefix /opt/errorbar . \
 && ls /opt/errorbar/lib/python3*/site-packages/service/native/library.*.so

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Errorbar" \
      org.opencontainers.image.description="An honest error bar on every prediction of a PyTorch network with dropout"
# pip compiled the packages; the base image comes without bytecode of the standard library, and nothing writes any later.
RUN python3 -c 'import compileall, re, sysconfig; compileall.compile_dir(sysconfig.get_path("stdlib"), quiet=2, rx=re.compile("/(tests?|lib2to3|idlelib|site-packages)/"))'
COPY --from=packages /opt/venv /opt/venv
COPY --from=errorbar /opt/errorbar /opt/venv
# USER and HOME stand in for an entry in /etc/passwd, which torch asks for; any other numeric user works too.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 USER=errorbar HOME=/tmp \
    ERRORBAR_HOST=0.0.0.0 ERRORBAR_PORT=8080
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['ERRORBAR_PORT']), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["errorbar"]
CMD ["serve"]
