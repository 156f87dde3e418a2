# Build: docker build -t autopay .
# Run:   docker run -p 8402:8402 -p 8403:8403 -e DATABASE_URL=postgresql://... -v autopay:/data autopay
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy proxy
COPY policies policies
COPY sql sql
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /dist

FROM python:3.11-slim
RUN useradd --create-home --uid 10402 autopay && install -d -o autopay -m 0700 /data
COPY --from=build /dist/*.whl /tmp/
RUN pip install --no-cache-dir /tmp/*.whl && rm /tmp/*.whl
USER autopay
ENV AUTOPAY_DATA_DIR=/data \
    AUTOPAY_LISTEN__PROXY=0.0.0.0:8402 \
    AUTOPAY_LISTEN__MOUNTS=0.0.0.0:8403
VOLUME /data
EXPOSE 8402 8403
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["autopay", "status", "--quiet"]
CMD ["autopay", "serve"]
