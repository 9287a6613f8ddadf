# relrank serve in a container; docs/install.md says how to build and run it.
FROM python:3.13-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/relrank
ENV PATH=/opt/relrank/bin:$PATH
# the processor's build of torch, a tenth of the size of the one for GPUs
RUN pip install torch --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install ".[serve,ann]"

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 relrank
COPY --from=build /opt/relrank /opt/relrank
ENV PATH=/opt/relrank/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/home/relrank/.cache/numba
USER relrank
WORKDIR /home/relrank
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["relrank", "serve", "--host", "0.0.0.0", "--port", "8000"]
# the folder of a study or of a fitted model, mounted read-only
CMD ["/study"]
