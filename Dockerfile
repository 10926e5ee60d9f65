# csd3d in a container, without root:
#
#   docker build -t csd3d .
#   docker run --rm -v "$PWD:/work" csd3d                                                    the demo, into demo/
#   docker run --rm -v "$PWD:/work" csd3d csd3d video clip.mp4 --prompt "make it snowy"      any command
#   docker run --rm --gpus all ...                                                           on a GPU
#
# torch as PyPI has it computes on CUDA and on CPUs. For an image of a third of the size that computes on CPUs alone, name
# the index of CPU wheels that PyTorch's installation page gives:  docker build --build-arg TORCH_INDEX=ADDRESS -t csd3d .
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 csd3d \
    && mkdir /work \
    && chown csd3d /work \
    && chmod 777 /home/csd3d

ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_WAIT_POLICY=PASSIVE
WORKDIR /opt/csd3d
COPY constraints.txt ./
ARG TORCH_INDEX=
RUN python3 -m venv /opt/venv && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY csd3d csd3d
COPY video video
COPY panorama panorama
RUN pip install -c constraints.txt .
COPY scripts/demo.py scripts/demo.py

# `docker run --user` may name a number that the image knows no name and no home of; torch asks for a name
ENV HOME=/home/csd3d USER=csd3d
USER csd3d
WORKDIR /work
CMD ["python", "/opt/csd3d/scripts/demo.py"]
