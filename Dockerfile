# syntax=docker/dockerfile:1
# `leukolens serve` for processors. docs/installation.md says how to build and run it; nothing secret goes in.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
# Another package index for PyTorch, whose processor-only build saves 4 GB; empty: the usual one.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/leukolens
WORKDIR /build
# First what seldom changes: this layer holds nearly all of the image and is built once.
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      /opt/leukolens/bin/pip install --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; \
    else \
      /opt/leukolens/bin/pip install --constraint constraints.txt torch torchvision; \
    fi
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY src ./src
RUN /opt/leukolens/bin/pip wheel --no-deps --wheel-dir dist . \
 && /opt/leukolens/bin/pip install --constraint constraints.txt "$(echo dist/leukolens-*.whl)[serve,export,explain]" \
 && /opt/leukolens/bin/pip uninstall --yes pip \
 && /opt/leukolens/bin/leukolens --version

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="leukolens" \
      org.opencontainers.image.description="Research software, not a medical device" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/leukolens /opt/leukolens
RUN groupadd --gid 10001 leukolens \
 && useradd --no-log-init --no-create-home --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin leukolens
# The root file system may be read-only: what libraries want to write goes to /tmp, which may be in memory.
ENV PATH=/opt/leukolens/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /models
EXPOSE 8341
# Ready, and not only alive: a server that is still loading its model, or draining, gets no work.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8341/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["leukolens", "serve", "--host", "0.0.0.0", "--port", "8341"]
CMD ["/models/current"]
