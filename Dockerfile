# docs/containers.md tells how it is run.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy proxy
COPY policies policies
COPY sql sql
RUN python -m venv --without-pip /opt/autopay \
    && pip --python /opt/autopay install --no-cache-dir .

FROM python:3.11-slim
RUN useradd --uid 10402 --user-group --home-dir /data --no-create-home autopay \
    && install -d -o autopay -g autopay -m 0700 /data
COPY --from=build /opt/autopay /opt/autopay
# By number: Kubernetes' runAsNonRoot wants to see that it is not root.
USER 10402:10402
# The settings file too lies in the volume, since the rest may be thrown away or read-only.
ENV PATH=/opt/autopay/bin:$PATH \
    XDG_CONFIG_HOME=/data \
    AUTOPAY_DATA_DIR=/data \
    AUTOPAY_LISTEN__PROXY=0.0.0.0:8402 \
    AUTOPAY_LISTEN__MOUNTS=0.0.0.0:8403
VOLUME /data
EXPOSE 8402 8403
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["autopay", "status", "--quiet"]
CMD ["autopay", "serve"]
