# One image for every process type; the command says which. See docs/deploying.md.
#   docker build -t evoflask .
FROM python:3.11-slim-bookworm AS builder
WORKDIR /opt/evoflask
COPY requirements.lock ./
# What is installed is what was looked at: a file whose hash is not in the lock is refused.
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --only-binary :all: -r requirements.lock \
    && .venv/bin/pip uninstall --yes --quiet pip setuptools

FROM python:3.11-slim-bookworm
# No login, no home, no right to anything; the number is for Kubernetes' runAsNonRoot.
RUN groupadd --gid 10001 evoflask \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/evoflask \
        --shell /usr/sbin/nologin evoflask \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/evoflask
WORKDIR /opt/evoflask
COPY --from=builder /opt/evoflask/.venv .venv
COPY app.py gunicorn.conf.py ./
COPY evoflask evoflask
COPY migrations migrations
COPY workers workers
# Nothing is written outside of the home and /tmp: the root file system may be read-only.
ENV PATH=/opt/evoflask/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EVOFLASK_HOME=/var/lib/evoflask \
    LOG_FORMAT=json
USER 10001:10001
EXPOSE 8080
CMD ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
