FROM cuda.example.org/base:12
USER 0:0
ENV PYTHONUNBUFFERED=1
RUN --mount=type=bind,from=launch,target=/run/launch \
    --mount=type=cache,id=launch-uv,target=/root/.cache/uv \
    --mount=type=secret,id=launch_index_url \
    --mount=type=secret,id=launch_extra_index_urls \
    --mount=type=secret,id=launch_ca \
    sh /run/launch/install.sh python 3.11
RUN --mount=type=bind,from=launch,target=/run/launch \
    --mount=type=cache,id=launch-uv,target=/root/.cache/uv \
    --mount=type=secret,id=launch_index_url \
    --mount=type=secret,id=launch_extra_index_urls \
    --mount=type=secret,id=launch_ca \
    sh /run/launch/install.sh base 1000
WORKDIR /home/launch/src
COPY --chown=1000:1000 . .
USER 1000:1000
ENTRYPOINT ["python", "main.py"]
