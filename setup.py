"""The package layout: the top-level folder kernels/ installs as fastscore.kernels. The rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fastscore", "fastscore.*"]), "fastscore.kernels"],
    package_dir={"fastscore": "fastscore", "fastscore.kernels": "kernels"},
    package_data={"fastscore": ["py.typed"]},
)
