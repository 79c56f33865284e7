-- The image makes the database prefect; MLflow has one of its own.
CREATE DATABASE mlflow;
