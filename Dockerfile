# Serves the model that comes with dmgan, or bundles that are mounted; docs/http.md says how. It has not been built: no
# base image could be had where it was written. With another --port, the health check needs it too.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.txt constraints.txt ./
COPY dmgan_runtime dmgan_runtime
COPY dmgan_train dmgan_train
COPY export export
RUN python -m venv /opt/dmgan \
    && /opt/dmgan/bin/pip install --no-cache-dir --constraint constraints.txt ".[cpu,serve]"

FROM python:3.12-slim
COPY --from=build /opt/dmgan /opt/dmgan
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dmgan
USER 10001
ENV PATH=/opt/dmgan/bin:$PATH PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from http.client import *; c = HTTPConnection('127.0.0.1', 8000, timeout=4); \
c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dmgan-serve"]
CMD ["--host", "0.0.0.0"]
