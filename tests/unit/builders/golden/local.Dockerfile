FROM python:3.12-slim
USER 0:0
ENV PYTHONUNBUFFERED=1
RUN --mount=type=bind,from=launch,target=/run/launch \
    --mount=type=cache,id=launch-uv,target=/root/.cache/uv \
    --mount=type=secret,id=launch_index_url \
    --mount=type=secret,id=launch_extra_index_urls \
    --mount=type=secret,id=launch_ca \
    sh /run/launch/install.sh base 4242
WORKDIR /home/launch/src
COPY --chown=4242:4242 . .
RUN --mount=type=bind,from=launch,target=/run/launch \
    --mount=type=cache,id=launch-uv,target=/root/.cache/uv \
    --mount=type=secret,id=launch_index_url \
    --mount=type=secret,id=launch_extra_index_urls \
    --mount=type=secret,id=launch_ca \
    sh /run/launch/install.sh local
USER 4242:4242
ENTRYPOINT ["python", "-c", "print(\"a b\\n$HOME\")"]
