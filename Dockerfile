# On Linux a plain build takes PyTorch's CUDA wheels. For a small CPU image, give PyTorch's CPU wheel index:
#   docker build --build-arg PIP_ARGS="--extra-index-url <PyTorch's CPU index>" -t florist .
# The image can tune. With EXTRAS= it is some 20 MB smaller, and serves projects without tuning; more extras: EXTRAS=train,heic.
# For flash attention on a GPU, a base with Python and a CUDA toolchain, and torch before it:
#   docker build --build-arg BASE=<a CUDA development image with Python 3.11> --build-arg EXTRAS=train,gpu -t florist .
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG PIP_ARGS=""
ARG EXTRAS="train"
ENV PIP_NO_CACHE_DIR=1
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml README.md LICENSE Makefile ./
COPY prompts prompts
COPY server server
COPY labels labels
COPY finetune finetune
COPY seedling seedling
RUN make install PIP_ARGS="${PIP_ARGS}" EXTRAS="${EXTRAS}"

# hadolint ignore=DL3006
FROM ${BASE}
RUN useradd --create-home --uid 10001 florist && install --directory --owner florist /data
WORKDIR /home/florist
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLORIST_HOST=0.0.0.0 \
    FLORIST_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['FLORIST_PORT'] + '/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["florist"]
CMD ["serve"]
