# Locust, for the profile `load`: built by `make up PROFILES=load`, from the root of the repository.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements-load.lock /tmp/
RUN python -m venv /opt/load \
 && /opt/load/bin/pip install --only-binary :all: --require-hashes -r /tmp/requirements-load.lock
ENV PATH=/opt/load/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /load
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/env"]
CMD ["locust", "--help"]
