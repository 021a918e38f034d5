FROM registry.local:5000/base@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
USER 0:0
ENV PYTHONUNBUFFERED=1
RUN --mount=type=bind,from=launch,target=/run/launch \
    --mount=type=cache,id=launch-uv,target=/root/.cache/uv \
    --mount=type=secret,id=launch_index_url \
    --mount=type=secret,id=launch_extra_index_urls \
    --mount=type=secret,id=launch_ca \
    sh /run/launch/install.sh base 0
WORKDIR /home/launch/src
COPY --chown=0:0 . .
USER 0:0
