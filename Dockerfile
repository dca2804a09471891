# docker build -t mmext . && docker run --rm -v "$PWD/data:/workspace/data" -v "$PWD/work_dirs:/workspace/work_dirs" mmext train CONFIG
# Add --gpus all for GPUs, and --shm-size 8g for data loading workers.
FROM python:3.11-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The compiler builds mmcv's operators; OpenCV loads the libraries. Debian's versions are those of the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mmext
COPY . .
RUN PIP_NO_CACHE_DIR=1 make .venv/.run
ENV PATH=/opt/mmext/.venv/bin:$PATH

WORKDIR /workspace
ENTRYPOINT ["mmext"]
CMD ["--help"]
